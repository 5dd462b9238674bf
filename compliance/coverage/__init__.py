"""Coverage: which listed data services encrypt, and what is missing."""
