//! Fair queues of one priority level (upstream: apiserver `pkg/util/flowcontrol/fairqueuing/queueset`).
//!
//! Pure: time comes in, and who runs next comes out. Invariants: no more than the level's seats are taken; a flow is
//! dealt the same few queues every time and waits in the shortest; of the queues that wait, the one that was served
//! least comes next.

use std::collections::VecDeque;
use std::time::Duration;

/// What a request is thought to take until it is known, in seconds of one seat (upstream: `estimatedServiceDuration`).
const ESTIMATE_SECONDS: f64 = 0.003;

/// A priority level's limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests at a time.
    pub seats: usize,
    /// 0: what finds no seat is rejected.
    pub queues: usize,
    pub hand: usize,
    /// Requests that may wait in one queue.
    pub length: usize,
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs, on the account of a queue.
    Run(usize),
    Wait(usize),
    Reject,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<u64>,
    executing: usize,
    /// Virtual time at which its next request would have begun if all had been served evenly.
    next_start: f64,
}

impl Queue {
    fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }
}

/// The queues with those who wait and run.
#[derive(Debug)]
pub struct Queues {
    limits: Limits,
    queues: Vec<Queue>,
    executing: usize,
    waiting: usize,
    /// Virtual time: how much service an evenly served queue has had, in seconds of one seat.
    virtual_now: f64,
    at: Duration,
}

impl Queues {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            // A level without queues keeps its account in one that nobody waits in.
            queues: vec![Queue::default(); limits.queues.max(1)],
            executing: 0,
            waiting: 0,
            virtual_now: 0.0,
            at: Duration::ZERO,
        }
    }

    /// Other limits, while requests run; as many queues as there were.
    pub fn set_seats(&mut self, seats: usize) {
        self.limits.seats = seats;
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn executing(&self) -> usize {
        self.executing
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// A request of a flow arrives.
    pub fn arrive(&mut self, now: Duration, flow: u64, id: u64) -> Arrival {
        self.advance(now);
        let at = self.deal(flow);
        let free = self.executing < self.limits.seats;
        if !free && (self.limits.queues == 0 || self.queues[at].waiting.len() >= self.limits.length) {
            return Arrival::Reject;
        }
        if !self.queues[at].is_active() {
            self.queues[at].next_start = self.virtual_now;
        }
        // With a free seat nobody waits: whoever could wait would have taken it.
        if free && self.waiting == 0 {
            self.start(at);
            return Arrival::Run(at);
        }
        self.queues[at].waiting.push_back(id);
        self.waiting += 1;
        Arrival::Wait(at)
    }

    /// A request that ran ends after `took`; those who run next, with their queues.
    pub fn finish(&mut self, now: Duration, queue: usize, took: Duration) -> Vec<(u64, usize)> {
        self.advance(now);
        self.executing = self.executing.saturating_sub(1);
        if let Some(q) = self.queues.get_mut(queue) {
            q.executing = q.executing.saturating_sub(1);
            q.next_start += took.as_secs_f64() - ESTIMATE_SECONDS;
        }
        self.dispatch()
    }

    /// Who runs now that there are seats.
    pub fn dispatch(&mut self) -> Vec<(u64, usize)> {
        let mut next = Vec::new();
        while self.executing < self.limits.seats && self.waiting > 0 {
            let waiting = self.queues.iter().enumerate().filter(|(_, q)| !q.waiting.is_empty());
            let least = waiting.min_by(|(_, a), (_, b)| a.next_start.total_cmp(&b.next_start));
            let Some(at) = least.map(|(at, _)| at) else { break };
            let Some(id) = self.queues[at].waiting.pop_front() else { break };
            self.waiting -= 1;
            self.start(at);
            next.push((id, at));
        }
        next
    }

    /// A request no longer waits; whether it did.
    pub fn leave(&mut self, id: u64, queue: usize) -> bool {
        let Some(q) = self.queues.get_mut(queue) else { return false };
        let before = q.waiting.len();
        q.waiting.retain(|w| *w != id);
        let left = before - q.waiting.len();
        self.waiting -= left;
        left > 0
    }

    fn start(&mut self, at: usize) {
        self.executing += 1;
        self.queues[at].executing += 1;
        self.queues[at].next_start += ESTIMATE_SECONDS;
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let active = self.queues.iter().filter(|q| q.is_active()).count();
        if active > 0 && passed > 0.0 {
            let busy = (self.executing + self.waiting).min(self.limits.seats);
            self.virtual_now += passed * busy as f64 / active as f64;
        }
    }

    /// The shortest of the queues that the flow is dealt (upstream: `shufflesharding.Dealer`).
    fn deal(&self, flow: u64) -> usize {
        let mut entropy = flow;
        let mut dealt: Vec<usize> = Vec::with_capacity(self.limits.hand);
        for i in 0..self.limits.hand.min(self.queues.len()) {
            let left = (self.queues.len() - i) as u64;
            let mut card = (entropy % left) as usize;
            entropy /= left;
            // The card's place among those not dealt yet.
            let mut sorted = dealt.clone();
            sorted.sort_unstable();
            for d in sorted {
                card += usize::from(d <= card);
            }
            dealt.push(card);
        }
        let load = |at: &usize| {
            let q = &self.queues[*at];
            q.waiting.len() + q.executing
        };
        dealt.iter().min_by_key(|at| load(at)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(seats: usize, queues: usize, hand: usize, length: usize) -> Queues {
        Queues::new(Limits { seats, queues, hand, length })
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn seats_then_queues_then_no() {
        let mut q = queues(1, 4, 1, 2);
        assert!(matches!(q.arrive(MS, 0, 1), Arrival::Run(0)));
        assert_eq!(q.arrive(MS, 0, 2), Arrival::Wait(0));
        assert_eq!(q.arrive(MS, 0, 3), Arrival::Wait(0));
        assert_eq!(q.arrive(MS, 0, 4), Arrival::Reject);
        assert_eq!(q.finish(2 * MS, 0, MS), [(2, 0)]);
        assert!(q.leave(3, 0) && !q.leave(3, 0));
        assert_eq!(q.finish(3 * MS, 0, MS), []);
        assert_eq!((q.executing(), q.waiting()), (0, 0));
    }

    #[test]
    fn without_queues_what_finds_no_seat_is_rejected() {
        let mut q = queues(1, 0, 0, 0);
        assert!(matches!(q.arrive(MS, 7, 1), Arrival::Run(0)));
        assert_eq!(q.arrive(MS, 7, 2), Arrival::Reject);
    }

    #[test]
    fn a_flood_of_one_flow_does_not_hold_up_another() {
        // Two queues, one card each: flow 0 and flow 1 do not meet.
        let mut q = queues(1, 2, 1, 100);
        assert!(matches!(q.arrive(MS, 0, 0), Arrival::Run(0)));
        for id in 1..=50 {
            assert_eq!(q.arrive(MS, 0, id), Arrival::Wait(0));
        }
        assert_eq!(q.arrive(MS, 1, 100), Arrival::Wait(1));
        let mut now = MS;
        let mut order = Vec::new();
        for _ in 0..3 {
            now += 10 * MS;
            let at = if order.last() == Some(&100) { 1 } else { 0 };
            order.extend(q.finish(now, at, 10 * MS).into_iter().map(|(id, _)| id));
        }
        assert!(order.iter().position(|id| *id == 100).is_some_and(|p| p <= 1), "{order:?}");
    }

    #[test]
    fn a_hand_has_different_cards() {
        let q = queues(1, 8, 8, 1);
        // All queues are empty: the first card is taken, whichever it is.
        assert!((0..1000).map(|f| q.deal(f)).all(|at| at < 8));
        let mut q = queues(1, 3, 3, 10);
        q.queues[0].executing = 5;
        q.queues[2].executing = 5;
        assert!((0..100).all(|f| q.deal(f) == 1));
    }
}
