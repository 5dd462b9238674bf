"""Activities of rotation: its steps, re-wrapping, stalled rotations."""
