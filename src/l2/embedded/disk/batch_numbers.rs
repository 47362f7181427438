//! Corrects damaged sequence numbers of batches in a journal. Pure: numbers in, corrections out.
//!
//! fjall's checksum of a batch does not cover its sequence number. A number that is too low is taken for a batch that the
//! tables already contain, and the batch is lost without an error; a number that is too high hides later writes. fjall
//! assigns the numbers under the lock of the journal, so that they increase from batch to batch. A number that breaks this
//! order is damaged, and any number that restores the order is as good as the original one.

/// Returns the numbers of the batches of a journal, with the damaged ones corrected.
pub(super) fn corrected(numbers: &[u64]) -> Vec<u64> {
    let mut corrected = numbers.to_vec();
    if !numbers.is_sorted_by(|left, right| left < right) {
        restore_order(&mut corrected);
    }
    close_gaps_at_ends(&mut corrected);
    corrected
}

/// Replaces the numbers that break the order, as few as possible.
fn restore_order(numbers: &mut [u64]) {
    let kept = longest_ordered(numbers);
    let (Some(&first), Some(&last)) = (kept.first(), kept.last()) else { return };
    for batch in (0..first).rev() {
        numbers[batch] = numbers[batch + 1].saturating_sub(1);
    }
    for pair in kept.windows(2) {
        for batch in pair[0] + 1..pair[1] {
            numbers[batch] = numbers[batch - 1] + 1;
        }
    }
    for batch in last + 1..numbers.len() {
        numbers[batch] = numbers[batch - 1].saturating_add(1);
    }
}

/// Corrects the first and the last number, which have only one neighbor. A gap is no proof of damage, because snapshots
/// use numbers too; closing a gap changes no order.
fn close_gaps_at_ends(numbers: &mut [u64]) {
    if let [first, second, ..] = numbers {
        let expected = second.saturating_sub(1);
        if *first < expected && differ_in_one_byte(*first, expected) {
            *first = expected;
        }
    }
    if let [.., before, last] = numbers {
        let expected = before.saturating_add(1);
        if *last > expected && differ_in_one_byte(*last, expected) {
            *last = expected;
        }
    }
}

fn differ_in_one_byte(left: u64, right: u64) -> bool {
    (left ^ right).to_le_bytes().iter().filter(|byte| **byte != 0).count() == 1
}

/// Returns the positions of the longest subsequence between whose numbers the other batches find free numbers (patience
/// sorting of the numbers minus their positions, from the last batch, so that of equally long ones the one with the
/// highest numbers is returned: damage at the start must not lower a number below those in the tables).
fn longest_ordered(numbers: &[u64]) -> Vec<usize> {
    let free = |at: usize| i128::from(numbers[at]) - at as i128;
    let mut after: Vec<Option<usize>> = vec![None; numbers.len()];
    // For each length, the position of the highest number that starts a subsequence of this length.
    let mut starts: Vec<usize> = Vec::new();
    for at in (0..numbers.len()).rev() {
        let length = starts.partition_point(|start| free(*start) >= free(at));
        after[at] = length.checked_sub(1).map(|shorter| starts[shorter]);
        if length == starts.len() {
            starts.push(at);
        } else {
            starts[length] = at;
        }
    }
    std::iter::successors(starts.last().copied(), |at| after[*at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increasing_numbers_are_right() {
        for numbers in [&[][..], &[7], &[7, 8, 9], &[7, 70_000, 90_000, 9_000_000]] {
            assert_eq!(corrected(numbers), numbers);
        }
    }

    #[test]
    fn each_damaged_byte_of_a_number_is_corrected_to_one_in_order() {
        let numbers: Vec<u64> = (1_000..1_010).collect();
        for batch in 0..numbers.len() {
            for (byte, mask) in (0..8).flat_map(|byte| (1..=255_u64).map(move |mask| (byte, mask))) {
                let mut damaged = numbers.clone();
                damaged[batch] ^= mask << (8 * byte);
                let found = corrected(&damaged);
                let is_right = found.is_sorted_by(|left, right| left < right) && found[0] == numbers[0];
                assert!(is_right, "{damaged:?} became {found:?}");
            }
        }
    }

    #[test]
    fn two_damaged_numbers_are_corrected() {
        assert_eq!(corrected(&[5, 6, 2, 8, 900, 10, 11]), [5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(corrected(&[900, 6, 7, 2, 9]), [5, 6, 7, 8, 9]);
    }
}
