"""Shared elements of the pages: texts, formats, notices and fragments."""
