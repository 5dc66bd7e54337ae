"""What is measured on the user's own samples: scales, accuracy and risk."""
