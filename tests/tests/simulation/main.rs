//! Whole rollouts in virtual time: the agent's decisions for up to a thousand nodes.
//!
//! Requests, answers and wake-ups may be slow or lost. Nodes crash or are cut off from the store, the store is rolled
//! back, and revisions overtake one another. To repeat a failing seed, run TOWPATH_SEED=N .ci/test -E
//! 'test(simulated_rollouts_keep_the_invariants)'.

mod chance;
mod checks;
mod events;
mod nodes;
mod state;

use chance::Chance;
use state::{SECOND, Simulation};

#[test]
fn simulated_rollouts_keep_the_invariants() {
    let only: Option<u64> = std::env::var("TOWPATH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = if towpath_tests::long() { 3000 } else { 150 };
    let seeds: Vec<u64> = only.map_or_else(|| (1..=seeds).collect(), |seed| vec![seed]);
    let mut longest = 0;
    for seed in seeds {
        // The output of a failing test then names the seed.
        println!("TOWPATH_SEED={seed}");
        let count = 2 + usize::try_from(Chance::new(!seed).below(30)).unwrap();
        longest = longest.max(Simulation::new(seed, count).run());
    }
    println!("the longest took {} s of virtual time", longest / SECOND);
}

#[test]
fn simulated_rollout_of_a_thousand_nodes_completes() {
    let took = Simulation::new(8, 1000).run();
    println!("it took {} s of virtual time", took / SECOND);
}
