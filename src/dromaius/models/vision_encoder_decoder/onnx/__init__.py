"""Export to ONNX: three graphs under the names that runtimes for such models look for."""
