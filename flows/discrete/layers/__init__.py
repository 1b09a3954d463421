"""What discrete systems share: invertible layers, conditioners, and the flows made of them."""
