"""Services: connecting, enrolment, protected fields, coverage."""
