"""What the exporter writes down as a computation though it is known: constants put in its place.

torch writes each literal as a Constant that a CastLike brings to another tensor's type. ONNX Runtime turns a CastLike
into a Cast only when it has placed the nodes, too late to fold it: on a GPU such scalars, as the bounds of every Range,
were computed there and copied back to the host, which needs them.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants_ir


def fold_constants(network: ir.Model) -> None:
    """Computes what follows from literals alone, in place; the answers stay the same to the bit.

    Constants become initializers, and what nobody uses goes. The network's own initializers keep their names and
    values, for those are the weights' state_dict names; what is computed from them, such as the mask head's weights in
    another order, stays a computation. ONNX Runtime folds that one when it loads the file.
    """
    weights = set(network.graph.initializers.values())

    def fold(node: ir.Node) -> bool | None:
        return None if weights.isdisjoint(node.inputs) else False  # None leaves the choice to the library

    # A CastLike can be folded where the other tensor's type is known, which our own translations do not write down.
    fold_constants_ir(network, onnx_shape_inference=True, should_fold=fold)
    IdentityEliminationPass()(network)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(network)
    RemoveUnusedNodesPass()(network)
