"""Coverage: which listed data services encrypt, and which gaps remain."""
