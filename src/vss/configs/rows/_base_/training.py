"""What every row shares; a row states what differs.

Keys a row has to add: dataset, scale, crop_size, batch_size, max_iters, model, optim_wrapper, test.
"""

# ---- samples
ratio_range = (0.5, 2.0)  # random factor on `scale`
cat_max_ratio = 0.75  # a crop in which one class fills more is drawn again, up to ten times
flip = 0.5  # probability of a horizontal flip
photometric_distortion = True
class_weights = None  # in the loss: "median_frequency", or factors by class name
rare_class_sampling = None  # {temperature, min_pixels}: samples are chosen by class, rare ones more often
label_shift = False  # True: COCO-Stuff labels as the paper's code had them, see vss.train.datasets.IndexDataset

# ---- schedule: linear warm-up times polynomial decay, by iteration
warmup_iters = 1500
warmup_ratio = 1e-6
power = 1.0
min_lr = 0.0
stop_iter = None  # iteration after which training ends, the schedule unfinished; None: max_iters

# ---- running
seed = 0
precision = "bfloat16"  # float32, bfloat16 or float16; what the paper used is in `as_published`
# Recompute activations in the backward pass: less memory, about a third more time. None: where they would not fit.
grad_checkpoint = None
micro_batch = None  # images that a GPU holds at once; None: its whole share of the batch, or the largest part that fits
fsdp = False  # shard parameters, gradients and optimizer state over the GPUs; for cards that cannot hold them
ema = None  # share of the new weights in a moving average, such as 0.0002, which is then what is published
num_workers = 4  # loading processes per GPU
init_classes = "new"  # rows of class layers: "new", or "copy" from the classes of the same name

# ---- keeping track
checkpoint_interval = 1000  # iterations between resumable checkpoints; changes no result
keep_checkpoints = 2
keep_weights = 0  # of the last checkpoints, whose weights are kept for a soup when the training is done
log_interval = 50
val_interval = 0  # iterations between validations on `val_frames` frames, single scale; 0: none
val_frames = 100
select = "last"  # which weights are published: "last", or "best" of the validations

# ---- changes under `protocol: as_published`, by dotted key
as_published = dict()
# ---- for the list of models: the paper's single-scale mIoU, and files that `init` or `weights` may name
paper_miou = dict()
published_weights = []
