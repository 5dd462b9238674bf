"""Inputs and results of workflows, updates and activities; pydantic models that Temporal serializes."""
