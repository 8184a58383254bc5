"""L-BFGS with curvatures (scitbx.lbfgs, the talk's C++ target), for an interpreter with cctbx-base.

    python peer_scitbx.py problem.npz solution.npz TOLERANCE PLAIN_ITERATIONS

PLAIN_ITERATIONS without curvatures come first: started cold with them it can end short of the
minimum. It stops when the target falls by less than TOLERANCE of itself in 5 iterations.
"""

import sys
import time

import numpy as np
from cctbx.array_family import flex
from cctbx.examples.merging import intensity_data, task6c_f_g
from memory import peak_MB
from scitbx import lbfgs


class Target:
    def __init__(self, x, diag_mode):
        self.x, self.diag_mode, self.evaluations = x, diag_mode, 0

    def compute_functional_gradients_diag(self):
        self.evaluations += 1
        f, g, c = task6c_f_g(self.x, n_i, n_g, data, self.diag_mode is not None)
        return f, g, 1.0 / c if self.diag_mode else None

    def compute_functional_and_gradients(self):
        return self.compute_functional_gradients_diag()[:2]


def minimise(x, diag_mode, tolerance, most=None):
    target = Target(x, diag_mode)
    stop = lbfgs.termination_parameters(
        traditional_convergence_test=False,
        drop_convergence_test_max_drop_eps=tolerance,
        max_iterations=most,
    )
    iterations = lbfgs.run(target, termination_params=stop).iter()
    return target.x, iterations, target.evaluations


p = np.load(sys.argv[1])
n_i, n_g = len(p["s2"]), len(p["ln_G"])
scale = float(np.mean(p["observed"], dtype=float)) / 10.0
data = intensity_data()
data.frame = flex.size_t(p["image"].astype(np.uint64))
data.miller = flex.size_t(p["reflection"].astype(np.uint64))
data.raw_obs = flex.double(p["observed"].astype(float) / scale)
data.exp_var = flex.double(p["variance"].astype(float) / scale**2)
data.stol_sq = flex.double(p["s2"][p["reflection"]])
began = time.perf_counter(), time.process_time()
G, I = data.estimate_G(n_g, 0.0, 0.0)[0], data.estimate_I(n_i, 0.0, 0.0)[0]
x = I.concatenate(G).concatenate(flex.double(n_g, 0.0))
x, i1, e1 = minimise(x, None, float(sys.argv[3]), int(sys.argv[4]))
x, i2, e2 = minimise(x, "always", float(sys.argv[3]))
took = time.perf_counter() - began[0], time.process_time() - began[1]
I, G, B = np.split(x.as_numpy_array(), [n_i, n_i + n_g])
np.savez(
    sys.argv[2],
    I=I * scale,
    G=G,
    B=B,
    wall=took[0],
    cpu=took[1],
    peak=peak_MB(),
    iterations=i1 + i2,
    evaluations=e1 + e2,
)
