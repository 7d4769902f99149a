"""Trained models as files that other programs run: `torch.export` and ONNX, compared with the engine."""
