"""HTTP of the API: body limits, rate limits, problem documents, API description."""
