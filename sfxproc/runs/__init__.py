"""An output folder under way: claimed, gone on with, finished.

`run` first: `opened` and `Run`. `contents` looks at a folder, `lock` and `manifest` say whose it
is, `folder` holds it, `stages` remembers what tasks found, `names` has all names of files.
"""
