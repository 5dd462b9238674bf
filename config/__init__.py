"""Settings and logs of every process. Read `settings`; only entry points do, and pass values down as arguments."""
