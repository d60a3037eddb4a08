"""From any picture to digits."""
