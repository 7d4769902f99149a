"""Models: the paper's backbones and heads as MMSegmentation modules, their weights, and the segmentor."""

from vss.core.callable_package import make_callable

make_callable(__name__, "vss.configs.table:model_rows")
