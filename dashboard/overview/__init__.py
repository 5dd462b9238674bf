"""What the pages show, as plain values made from rows: pure functions, no Streamlit, no I/O, no clock of their own."""
