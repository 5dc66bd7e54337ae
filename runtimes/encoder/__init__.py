"""Running bundles of encoders."""
