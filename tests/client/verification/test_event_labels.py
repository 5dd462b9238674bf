from openkcm.verification.event_labels import family_of, what


def test_unknown_event_gets_a_label_from_its_name():
    assert what("root_key.went_away") == "Went away"
    assert family_of("root_key.went_away") == "Root key"
