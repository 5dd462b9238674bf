from openkcm.verification.event_labels import family_of, what


def test_an_event_from_another_version_reads_as_words_too():
    assert what("root_key.went_away") == "Went away"
    assert family_of("root_key.went_away") == "Root key"
