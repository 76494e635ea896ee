"Damaged image files and .npz files give the kit's own errors, quickly and in bounded memory."
from fuzz_data import fuzz


def test_damaged_inputs_give_the_kits_own_errors():
    found = fuzz(200, seed=1)
    assert found["images_refused"] > 30 and found["npz_refused"] > 20 and found["images_read"] > 10
    assert found["other_errors"] == 0 and found["slowest_seconds"] < 1
