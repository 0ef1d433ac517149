use servecast_types::WorkerId;

/// The worker with the fewest requests in flight; the first of equals.
pub(super) fn pick(in_flight: &[u32]) -> WorkerId {
    WorkerId((0..in_flight.len()).min_by_key(|&worker| in_flight[worker]).unwrap_or(0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_those_with_the_fewest_requests_is_picked() {
        assert_eq!(pick(&[3, 1, 1, 2]), WorkerId(1));
        assert_eq!(pick(&[0]), WorkerId(0));
    }
}
