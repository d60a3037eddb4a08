"""What a training run is."""
