"""HTTP of the endpoint: body limits, rate limits, problems, API description."""
