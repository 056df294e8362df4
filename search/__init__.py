"""Binary networks: layers, architectures, data, training and checkpoints."""
