"""The C++ solver of the talk (cctbx.examples.merging.xscale6e), for an interpreter with cctbx-base.

    python peer_cctbx.py problem.npz solution.npz OBJECTIVE_DECREASE_THRESHOLD

Start values, the scaling of the data to a mean of 10 and the iterations are those of
cctbx/examples/merging/test_levenberg_sparse.py.
"""

import sys
import time

import numpy as np
from cctbx.array_family import flex
from cctbx.examples.merging import ParameterFlags, intensity_data, xscale6e
from memory import peak_MB
from scitbx.lstbx import normal_eqns, normal_eqns_solving


class Helper(xscale6e, normal_eqns.non_linear_ls_mixin):
    def __init__(self, x):
        super().__init__(n_parameters=len(x))
        self.x, self.builds = x, 0

    def step_forward(self):
        self.old_x = self.x.deep_copy()
        self.x += self.step()

    def step_backward(self):
        self.x, self.old_x = self.old_x, None

    def parameter_vector_norm(self):
        return self.x.norm()

    def build_up(self, objective_only=False):
        self.builds += not objective_only
        self.reset()
        self.access_cpp_build_up_directly_eigen_eqn(objective_only, current_values=self.x)


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
helper = Helper(I.concatenate(G).concatenate(flex.double(n_g, 0.0)))
helper.set_cpp_data(data, n_i, n_g)
helper.set_parameter_flags(ParameterFlags.Bfactor)
run = normal_eqns_solving.levenberg_marquardt_iterations_encapsulated_eqns(
    helper, n_max_iterations=200, objective_decrease_threshold=float(sys.argv[3])
)
took = time.perf_counter() - began[0], time.process_time() - began[1]
I, G, B = np.split(helper.x.as_numpy_array(), [n_i, n_i + n_g])
np.savez(
    sys.argv[2],
    I=I * scale,
    G=G,
    B=B,
    wall=took[0],
    cpu=took[1],
    peak=peak_MB(),
    iterations=run.n_iterations,
    evaluations=helper.builds,
)
