//! Threads that work on pieces, whose results come in order.

use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;

/// Threads that turn jobs into results, each delivered through a channel of its own.
pub(super) struct Workers<J, R>(SyncSender<(J, SyncSender<R>)>);

impl<J: Send, R: Send> Workers<J, R> {
    pub(super) fn start<'scope, 'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        threads: usize,
        work: impl Fn(J) -> R + Clone + Send + 'scope,
    ) -> Self
    where
        J: 'scope,
        R: 'scope,
    {
        let (sender, receiver) = sync_channel::<(J, SyncSender<R>)>(threads);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let (receiver, work) = (receiver.clone(), work.clone());
            scope.spawn(move || loop {
                let job = receiver.lock().unwrap_or_else(|e| e.into_inner()).recv();
                let Ok((job, result)) = job else { break };
                let _ = result.send(work(job));
            });
        }
        Self(sender)
    }

    pub(super) fn submit(&self, job: J) -> Receiver<R> {
        let (sender, receiver) = sync_channel(1);
        let _ = self.0.send((job, sender));
        receiver
    }
}
