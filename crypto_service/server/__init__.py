"""What both servers share: connections, TLS, limits, metrics, hardening."""
