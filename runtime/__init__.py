"""Run and measure bundles with numpy and onnxruntime alone."""
