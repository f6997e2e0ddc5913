//! The output of one request as text: tokens in, pieces of text out, stop strings obeyed.

use pdlab_api::kv_transfer::KvTransferParams;
use pdlab_api::timings::RequestMetrics;
use pdlab_api::tokenizer::{EOS, TextStream};
use pdlab_engine::FinishReason;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::intake::Intake;
use crate::job::{AbortGuard, Ending, Output, Problem};
use crate::stop::StopScanner;

/// A running request seen from the front end. Dropping it aborts the request.
#[derive(Debug)]
pub struct Generation {
    outputs: UnboundedReceiver<Output>,
    guard: AbortGuard,
    text: TextStream,
    scanner: StopScanner,
    stop_token_ids: Vec<u32>,
    keep_stop: bool,
    /// Tokens generated so far.
    pub completion_tokens: u64,
    ended: bool,
}

/// What came since the last piece.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// New text.
    pub text: String,
    /// New token ids.
    pub token_ids: Vec<u32>,
    /// Set when this is the last piece.
    pub end: Option<End>,
}

/// The end of an output.
#[derive(Debug, PartialEq)]
pub struct End {
    /// `stop`, `length` or `abort`.
    pub reason: FinishReason,
    /// The stop string or stop token id that was met.
    pub stop_reason: Option<Value>,
    /// Transfer parameters, on prefill.
    pub kv: Option<KvTransferParams>,
    /// Prompt tokens that needed no computation.
    pub cached_tokens: u64,
    /// Where the time went, for a client that asked.
    pub metrics: Option<RequestMetrics>,
}

impl Generation {
    pub(crate) fn new(
        outputs: UnboundedReceiver<Output>,
        guard: AbortGuard,
        intake: &Intake,
    ) -> Self {
        Self {
            outputs,
            guard,
            text: TextStream::default(),
            scanner: StopScanner::new(intake.stops.clone(), intake.keep_stop),
            stop_token_ids: intake.stop_token_ids.clone(),
            keep_stop: intake.keep_stop,
            completion_tokens: 0,
            ended: false,
        }
    }

    /// The next piece: everything that has arrived since the last call, so that a slow reader gets
    /// larger pieces and not a growing backlog. None after the end.
    pub async fn next(&mut self) -> Option<Result<Piece, Problem>> {
        if self.ended {
            return None;
        }
        let mut piece = Piece::default();
        let Some(mut output) = self.outputs.recv().await else {
            return Some(Err(self.fail(Problem::Shutdown)));
        };
        loop {
            if let Err(problem) = self.take(output, &mut piece) {
                return Some(Err(self.fail(problem)));
            }
            if piece.end.is_some() {
                self.ended = true;
                self.guard.disarm();
                return Some(Ok(piece));
            }
            match self.outputs.try_recv() {
                Ok(more) => output = more,
                Err(_) => return Some(Ok(piece)),
            }
        }
    }

    fn fail(&mut self, problem: Problem) -> Problem {
        self.ended = true;
        self.guard.disarm();
        problem
    }

    fn take(&mut self, output: Output, piece: &mut Piece) -> Result<(), Problem> {
        match output {
            Output::Token(token, ending) => {
                self.completion_tokens += 1;
                piece.token_ids.push(token);
                let stop_token = ending
                    .as_ref()
                    .is_some_and(|e| e.reason == FinishReason::Stop)
                    .then(|| self.stop_token(token))
                    .flatten();
                let hidden = token == EOS || (stop_token.is_some() && !self.keep_stop);
                if !hidden {
                    self.show(token, piece);
                }
                if piece.end.is_none()
                    && let Some(ending) = ending
                {
                    self.end(ending, stop_token, piece)?;
                }
                Ok(())
            }
            Output::End(ending) => self.end(ending, None, piece),
        }
    }

    fn show(&mut self, token: u32, piece: &mut Piece) {
        let scanned = self.scanner.push(&self.text.push(token));
        piece.text.push_str(&scanned.text);
        if let Some(stop) = scanned.stop {
            self.guard.stop();
            piece.end = Some(End {
                reason: FinishReason::Stop,
                stop_reason: Some(stop.into()),
                kv: None,
                cached_tokens: 0,
                metrics: None,
            });
        }
    }

    fn stop_token(&self, token: u32) -> Option<Value> {
        self.stop_token_ids.contains(&token).then(|| token.into())
    }

    fn end(
        &mut self,
        ending: Ending,
        stop_reason: Option<Value>,
        piece: &mut Piece,
    ) -> Result<(), Problem> {
        if ending.reason == FinishReason::Error {
            return Err(ending.problem.unwrap_or(Problem::Shutdown));
        }
        let rest = self.text.finish();
        piece.text.push_str(&self.scanner.push(&rest).text);
        piece.text.push_str(&self.scanner.finish());
        piece.end = Some(End {
            reason: ending.reason,
            stop_reason,
            kv: ending.kv,
            cached_tokens: ending.cached_tokens,
            metrics: ending.metrics,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_loop::Command;
    use pdlab_engine::{KvMode, RequestId};
    use std::sync::mpsc::Receiver;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    fn start(stops: &[&str]) -> (UnboundedSender<Output>, Generation, Receiver<Command>) {
        let (outputs, received) = unbounded_channel();
        let (commands, inbox) = std::sync::mpsc::channel();
        let intake = Intake {
            tokens: vec![1],
            max_tokens: 9,
            min_tokens: 0,
            ignore_eos: false,
            stop_token_ids: vec![33],
            stops: stops.iter().map(|s| (*s).to_owned()).collect(),
            keep_stop: false,
            stream: true,
            include_usage: false,
            continuous_usage: false,
            return_token_ids: false,
            echo: None,
            kv: KvMode::Local,
            pull: None,
            timings: false,
        };
        let guard = AbortGuard::new(RequestId(7), commands);
        (outputs, Generation::new(received, guard, &intake), inbox)
    }

    fn ending(reason: FinishReason) -> Option<Ending> {
        Some(Ending { reason, kv: None, cached_tokens: 3, metrics: None, problem: None })
    }

    #[tokio::test]
    async fn waiting_tokens_become_one_piece() {
        let (outputs, mut generation, inbox) = start(&[]);
        outputs.send(Output::Token(65, None)).unwrap();
        outputs.send(Output::Token(66, ending(FinishReason::Length))).unwrap();
        let piece = generation.next().await.unwrap().unwrap();
        assert_eq!((piece.text.as_str(), piece.token_ids), ("AB", vec![65, 66]));
        assert_eq!(piece.end.unwrap().cached_tokens, 3);
        assert!(generation.next().await.is_none());
        drop(generation);
        assert!(inbox.recv().is_err(), "an ended request is not aborted");
    }

    #[tokio::test]
    async fn a_stop_string_ends_the_engines_work_too() {
        let (outputs, mut generation, inbox) = start(&["BC"]);
        for token in [65, 66, 67, 68] {
            outputs.send(Output::Token(token, None)).unwrap();
        }
        let piece = generation.next().await.unwrap().unwrap();
        assert_eq!(piece.text, "A");
        assert_eq!(piece.end.unwrap().stop_reason, Some("BC".into()));
        assert!(matches!(inbox.recv(), Ok(Command::Stop(RequestId(7)))));
    }

    #[tokio::test]
    async fn stop_tokens_are_named_and_hidden() {
        let (outputs, mut generation, _inbox) = start(&[]);
        outputs.send(Output::Token(65, None)).unwrap();
        outputs.send(Output::Token(33, ending(FinishReason::Stop))).unwrap();
        let piece = generation.next().await.unwrap().unwrap();
        assert_eq!(piece.text, "A");
        assert_eq!(piece.end.unwrap().stop_reason, Some(33.into()));
    }

    #[tokio::test]
    async fn a_client_that_goes_away_aborts() {
        let (_outputs, generation, inbox) = start(&[]);
        drop(generation);
        assert!(matches!(inbox.recv(), Ok(Command::Abort(RequestId(7)))));
    }

    #[tokio::test]
    async fn an_engine_that_goes_away_is_an_error() {
        let (outputs, mut generation, _inbox) = start(&[]);
        drop(outputs);
        assert_eq!(generation.next().await, Some(Err(Problem::Shutdown)));
        assert_eq!(generation.next().await, None);
    }
}
