"""One page a module, each with `draw(seat)`: reads rows through the seat, lets `views` decide, draws the result."""
