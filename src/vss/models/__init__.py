"""Models: the paper's backbones and heads as MMSegmentation modules, their weights, and the segmentor."""
