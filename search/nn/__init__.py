"""Binary layers and their gradient estimators."""
