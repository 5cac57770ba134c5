"""Server optimizers by name, one per file: what the merged change of a round does to the global model.

With W the global model and D the merged change of a tensor (see ``fedn_partial.exchange.merge_rules``):

none : W += D
momentum : v <- beta v + D, W += learning_rate v (FedAvgM, Hsu et al. 2019). Tensors that no client sent in a round keep
    W and v.

BatchNormalization's moving statistics become the merged ones with each of them.
"""

from __future__ import annotations

from ..custom import Registry

OPTIMIZERS = Registry(__package__, {"none": "base:ServerOptimizer", "momentum": "momentum:Momentum"})
