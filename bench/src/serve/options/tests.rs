use clap::Parser;

use super::*;
use crate::serve::dataset::{Dataset, Random};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn parse(line: &str) -> Result<Options, String> {
    let words = std::iter::once("serve").chain(line.split_whitespace());
    Command::try_parse_from(words).map(|c| c.options).map_err(|error| error.to_string())
}

fn config(line: &str) -> Config {
    parse(line).unwrap().config().unwrap()
}

#[test]
fn defaults_are_vllms() {
    let config = config("");
    assert_eq!(config.target.base_url, "http://127.0.0.1:8000");
    assert_eq!((config.num_prompts, config.seed, config.rate), (1000, 0, Rate::Unlimited));
    assert_eq!(config.dataset, Dataset::Random(Random::default()));
    assert!(config.target.ignore_eos && config.target.model.is_none());
    let prefix = config.target.request_id_prefix;
    assert!(prefix.starts_with("bench-") && prefix.len() == 15, "{prefix}");
    assert_eq!(parse("").unwrap().presentation(), Presentation::default());
}

#[test]
fn a_full_command_line() {
    let options = parse(
        "--backend openai-chat --host ::1 --port 9 --endpoint /x --model m \
         --served-model-name s --header A=b=c D=e --extra-body {\"top_k\":1} \
         --request-id-prefix p- --num-prompts 5 --seed 7 --request-rate 2.5 --burstiness inf \
         --max-concurrency 3 --num-warmups 1 --ready-check-timeout-sec 4 --input-len 30 \
         --random-output-len 6 --random-range-ratio {\"input\":0.5,\"output\":0.25} \
         --random-prefix-len 2 --percentile-metrics ttft,e2el --metric-percentiles 50,99.9 \
         --goodput ttft:500 tpot:50 --metadata k=v --label l --save-result --save-detailed \
         --result-dir d --result-filename f --disable-tqdm --json --out o --ignore-eos",
    )
    .unwrap();
    let config = options.config().unwrap();
    assert_eq!(config.target.base_url, "http://[::1]:9");
    assert_eq!(config.target.headers[0], ("A".into(), "b=c".into()));
    assert_eq!(config.target.headers[1], ("D".into(), "e".into()));
    assert_eq!(config.target.extra_body["top_k"], 1);
    assert_eq!((config.rate, config.burstiness), (Rate::PerSecond(2.5), f64::INFINITY));
    assert_eq!(config.ready_check_timeout, Duration::from_secs(4));
    let random = Random {
        input_tokens: 30,
        output_tokens: 6,
        input_range_ratio: 0.5,
        output_range_ratio: 0.25,
        prefix_tokens: 2,
    };
    assert_eq!(config.dataset, Dataset::Random(random));
    let goodput = Goodput { ttft_s: Some(0.5), tpot_s: Some(0.05), e2el_s: None };
    assert_eq!(config.goodput, goodput);
    let presentation = options.presentation();
    assert_eq!(presentation.metrics, [Metric::Ttft, Metric::E2el]);
    assert_eq!(presentation.percentiles, [50.0, 99.9]);
    assert!(presentation.detailed && config.detailed);
}

#[test]
fn a_trace_takes_its_own_options() {
    let line = "--dataset-name timed_trace --dataset-path t.jsonl \
                --timed-trace-chunk-hash-size 512 --timed-trace-sec-multiplier 0.001 \
                --timed-trace-label-timestamp at";
    let Dataset::TimedTrace(trace) = config(line).dataset else { panic!("not a trace") };
    assert_eq!((trace.chunk_hash_tokens, trace.sec_multiplier), (512, 0.001));
    assert_eq!(
        (trace.labels.timestamp.as_str(), trace.labels.hash_ids.as_str()),
        ("at", "hash_ids")
    );
    let error = |line| parse(line).unwrap().config().unwrap_err().to_string();
    assert!(error("--dataset-name timed_trace").starts_with("--dataset-path"));
    let lengths = "--dataset-name timed_trace --dataset-path t --input-len 3";
    assert!(error(lengths).contains("its own lengths"));
}

#[test]
fn mistakes_name_the_option_and_the_cure() {
    for (line, part) in [
        ("--ramp-up-strategy linear", "--ramp-up-start-rps <RATE>"),
        ("--ramp-up-end-rps 3", "--ramp-up-strategy <HOW>"),
        ("--sweep 5", "LOW:HIGH"),
        ("--sweep 0:5", "LOW:HIGH"),
        ("--sweep 1:5 --request-rate 3", "cannot be used with"),
        ("--custom-output-len some", "or -1 for what each line says"),
        ("--request-rate 0", "above 0, or inf"),
        ("--backend grpc", "possible values: openai, openai-chat, vllm"),
        ("--dataset-name hf", "possible values: random, prefix_repetition, sharegpt"),
        ("--percentile-metrics ttft,speed", "the metrics are ttft, tpot"),
        ("--metric-percentiles 101", "from 0 to 100"),
        ("--goodput ttft", "METRIC:MILLISECONDS"),
        ("--goodput ttft:fast", "not a number of milliseconds"),
        ("--metadata k", "NAME=VALUE"),
        ("--extra-body [1]", "not a JSON object"),
        ("--random-range-ratio wide", "a number such as 0.5"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(part), "{line}: {error}");
    }
    let error = parse("--goodput itl:5").unwrap().config().unwrap_err().to_string();
    assert_eq!(error, "--goodput: itl has no level; use ttft, tpot, e2el");
}

#[test]
fn each_dataset_takes_its_own_options() {
    let dataset = |line: &str| config(line).dataset;
    let Dataset::PrefixRepetition(prefixes) = dataset(
        "--dataset-name prefix_repetition --prefix-repetition-num-prefixes 3 --output-len 7",
    ) else {
        panic!("not prefixes")
    };
    assert_eq!((prefixes.prefixes, prefixes.prefix_tokens, prefixes.output_tokens), (3, 256, 7));
    let Dataset::ShareGpt(talk) = dataset(
        "--dataset-name sharegpt --dataset-path s --sharegpt-output-len 9 --disable-shuffle",
    ) else {
        panic!("no conversations")
    };
    assert_eq!((talk.output_tokens, talk.source.shuffle), (Some(9), false));
    let Dataset::Custom(custom) =
        dataset("--dataset-name custom --dataset-path c --custom-output-len -1 --skip-bad-lines")
    else {
        panic!("not custom")
    };
    assert_eq!((custom.output_tokens, custom.source.skip_bad_lines), (None, true));
    let Dataset::BurstGpt(log) = dataset("--dataset-name burstgpt --dataset-path b --self-timed")
    else {
        panic!("no log")
    };
    assert!(log.self_timed);
    let error = |line| parse(line).unwrap().config().unwrap_err().to_string();
    assert_eq!(
        error("--dataset-name sharegpt"),
        "--dataset-path: sharegpt needs the file of the dataset"
    );
    assert!(error("--self-timed").starts_with("--self-timed: the dataset has no times"));
    assert!(error("--dataset-name custom --input-len 3").contains("its own prompts"));
}

#[test]
fn sampling_options_are_fields_of_every_request() {
    let body = config("--temperature 0.5 --top-k -1 --extra-body {\"temperature\":1,\"n\":2}");
    assert_eq!(body.target.extra_body["temperature"], 1);
    assert_eq!(body.target.extra_body["top_k"], -1);
    assert_eq!(body.target.extra_body["n"], 2);
    assert_eq!(config("").target.extra_body.len(), 0);
}

#[test]
fn a_ramp_needs_its_three_options() {
    let line = "--ramp-up-strategy exponential --ramp-up-start-rps 1 --ramp-up-end-rps 8 \
                --probe-request-rate 2";
    let config = config(line);
    let ramp = Ramp { strategy: RampUp::Exponential, start_rps: 1, end_rps: 8 };
    assert_eq!((config.ramp, config.probe_rate), (Some(ramp), 2.0));
}

#[test]
fn a_soak_has_its_time_and_whom_it_watches() {
    let line = "--duration 24h --window 5m --watch http://127.0.0.1:8100 77";
    let plan = parse(line).unwrap().soak_plan().unwrap();
    assert_eq!(plan.duration, Duration::from_secs(86_400));
    assert_eq!((plan.window, plan.watch.len()), (Duration::from_secs(300), 2));
    assert!(parse("").unwrap().soak_plan().is_none());
    assert!(parse("--duration soon").is_err() && parse("--watch 1").is_err());
}

#[test]
fn a_sweep_has_its_range_and_its_step() {
    let plan = |line| parse(line).unwrap().sweep_plan();
    let expected = sweep::Plan { low: 0.5, high: 40.0, step: Duration::from_secs(3) };
    assert_eq!(plan("--sweep 0.5:40 --sweep-seconds 3").unwrap(), Some(expected));
    assert_eq!(plan("").unwrap(), None);
    assert!(plan("--sweep 1:2 --sweep-seconds 0").unwrap_err().to_string().contains("above 0"));
}
