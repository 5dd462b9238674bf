"""The script that Streamlit runs at each rerun; the code is in `router`, which is imported once."""

from dashboard import router

router.draw()
