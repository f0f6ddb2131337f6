"""NVIDIA TensorRT: the engine is built on the box from ONNX, kept, and run on the GPU."""
