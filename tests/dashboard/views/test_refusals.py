from dashboard.views.refusals import said
from tenancy.errors import OpenKcmError, UnknownRegion


def test_a_refusal_is_said_in_sentences_and_names_keep_their_case() -> None:
    refused = UnknownRegion(("eu-west-1",))
    assert said(refused) == "OpenKCM is not offered in this region. Choose one of: eu-west-1."
    assert said(OpenKcmError("out of reach", "")) == "Out of reach."
