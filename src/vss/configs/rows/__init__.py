"""One MMEngine config file for each model and dataset it is trained on; the name of the file is the name of the row.

A row holds named numbers (crop_size, batch_size, optim_wrapper, ...) and the model, inheriting from `_base_`;
`vss.configs.resolve` derives the pipeline and the schedules from them.
"""
