import pytest

from jaxprune.models import text


def test_padding_on_either_side():
    right = text.pad([[3, 4, 5], [6]], 4, pad_id=9)
    assert right.token_ids.tolist() == [[3, 4, 5, 9], [6, 9, 9, 9]]
    assert right.mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert right.token_type_ids is None
    left = text.pad([[3, 4, 5], [6]], 4, pad_id=9, left=True)
    assert left.token_ids.tolist() == [[9, 3, 4, 5], [9, 9, 9, 6]]
    assert text.token_mask(left).tolist() == [
        [False] + [True] * 3,
        [False] * 3 + [True],
    ]


@pytest.mark.parametrize("sequences", [[[1, 2, 3]], [[1], []]])
def test_sequences_that_do_not_fit_are_refused(sequences):
    with pytest.raises(ValueError, match="need 1 to length=2 tokens"):
        text.pad(sequences, 2)


@pytest.mark.parametrize("token_id", [-1, 8])
def test_tokens_outside_the_vocabulary_are_refused(token_id):
    assert text.pad([[0, 7]], vocab_size=8).token_ids.tolist() == [[0, 7]]
    message = rf"token id {token_id} is not in 0\.\.7"
    with pytest.raises(ValueError, match=message):
        text.pad([[0, token_id], [1, 2]], vocab_size=8)
    for sources, targets in [([[token_id]], [[1]]), ([[1]], [[token_id]])]:
        with pytest.raises(ValueError, match=message):
            text.pairs(sources, targets, start_id=0, vocab_size=8)
    with pytest.raises(ValueError, match=message):
        text.pairs([[1]], [[1]], start_id=token_id, vocab_size=8)
    with pytest.raises(ValueError, match=message):
        text.pad([[1, 2], [3]], pad_id=token_id, vocab_size=8)


def test_pairs_show_what_was_written_before():
    batch, labels = text.pairs(
        [[3, 4], [5]], [[6, 7, 1], [8, 1]], start_id=0, lengths=(3, None), pad_id=9
    )
    assert batch.token_ids.tolist() == [[3, 4, 9], [5, 9, 9]]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert batch.decoder_ids.tolist() == [[0, 6, 7], [0, 8, 9]]
    assert labels.tolist() == [[6, 7, 1], [8, 1, -100]]
    assert text.decoder_token_mask(batch).tolist() == [[True] * 3, [True, True, False]]
    assert text.token_mask(batch).tolist() == [
        [True, True, False],
        [True, False, False],
    ]
