"""Running bundles on a device: NumPy in and out, neither torch nor transformers anywhere."""
