"""Rows of services: state, managed objects, enrolment, agents, protected fields."""
