"""What the pages may ask of the outside; `wiring` chooses who answers."""
