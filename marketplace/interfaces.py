"""What this process needs of the others: the door into Temporal, and its part of the database."""
