"""Problems of known answer, run with every solver and side by side with other programs."""
