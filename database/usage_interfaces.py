"""What is counted of the uses of keys; part of `interfaces`, which hands it out."""

from typing import Literal

UsagePart = Literal["service", "operation"]
