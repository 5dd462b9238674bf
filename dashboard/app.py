"""The script that Streamlit runs anew at each rerun; everything it does lies in `desk`, which is imported once."""

from dashboard import router as desk

desk.draw()
