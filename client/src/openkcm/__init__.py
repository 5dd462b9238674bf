"""Client of OpenKCM: SDK, agent, field encryption, offline verification.

from openkcm.sdk.client import Client
"""
