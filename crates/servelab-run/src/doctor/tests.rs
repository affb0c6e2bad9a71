//! Judgements of the doctor on recorded texts.

use super::*;

#[test]
fn nodes_of_both_schedulers() {
    let text = "n1|idle|128|1|gpu:8|gpu*|none\nn2|drained*|128|1|gpu:8|gpu*|bad link\nn3|idle|1|1|(null)|cpu|none\n";
    let mut site = Site::local();
    site.partition = Some("gpu".to_owned());
    site.gpus.per_node = Some(8);
    let finding = judge_nodes(&slurm_nodes(text, site.partition.as_deref()), &site);
    assert_eq!(finding.health, Health::Ok);
    assert_eq!(finding.detail, "1 of 2 nodes can be used; not: n2 (drained, bad link)");
    site.gpus.per_node = Some(16);
    assert_eq!(judge_nodes(&slurm_nodes(text, Some("gpu")), &site).health, Health::Bad);
    assert_eq!(judge_nodes(&slurm_nodes(text, Some("nowhere")), &site).health, Health::Bad);
    let pbs = "a\n     state = free\n     resources_available.ngpus = 8\n\nb\n     state = down,offline\n\n";
    site.gpus.per_node = Some(8);
    assert_eq!(judge_nodes(&pbs_nodes(pbs), &site).detail, "1 of 2 nodes can be used; not: b (down,offline)");
}

#[test]
fn gpus_that_are_in_use() {
    let clean = "0, NVIDIA H100 80GB HBM3, 4, 81559\n1, NVIDIA H100 80GB HBM3, 4, 81559\n";
    assert_eq!(judge_gpus(clean).health, Health::Ok);
    let dirty = judge_gpus("0, NVIDIA H100, 4, 81559\n1, NVIDIA H100, 60000, 81559\n");
    assert!(dirty.health == Health::Warning && dirty.detail.starts_with("GPU 1: 60000"), "{dirty:?}");
    assert_eq!(judge_gpus("").health, Health::Warning);
}

#[test]
fn loud_variables() {
    let mut site = Site::local();
    let set = |name: &str| (name == "NCCL_DEBUG").then(|| "WARN".to_owned());
    assert_eq!(debug_variables(&site, &set).health, Health::Ok);
    site.env.insert("VLLM_LOGGING_LEVEL".to_owned(), "debug".to_owned());
    let finding = debug_variables(&site, &set);
    assert!(finding.health == Health::Warning && finding.detail == "VLLM_LOGGING_LEVEL=debug", "{finding:?}");
}

#[test]
fn flags_against_a_captured_help() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("vllm");
    let script = "#!/bin/sh\necho asked >> \"$0.log\"\n\
                  printf '  --max-num-seqs MAX_NUM_SEQS\\n  --enable-lora, --no-enable-lora\\n  --eplb-config EPLB_CONFIG\\n'\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let good = words("vllm serve m --max-num-seqs 8 --no-enable-lora --eplb-config.window_size 9");
    let bad = words("vllm serve m --swap-space 4 --max-num-seqs=8");
    let site = Site::local();
    let check = |servers: &[&[String]]| {
        let subject = Subject {
            site: &site,
            root: folder.path(),
            engine: Some(&program),
            model: None,
            trusts_model_code: false,
            port_base: 31_500,
            servers,
        };
        flags(&program, &subject)
    };
    assert_eq!(check(&[&good]).health, Health::Ok);
    let finding = check(&[&good, &bad]);
    assert!(finding.health == Health::Bad && finding.detail.ends_with("does not know --swap-space"), "{finding:?}");
    assert_eq!(fs::read_to_string(folder.path().join("vllm.log")).unwrap(), "asked\n", "once");
    fs::write(&program, "#!/bin/sh\necho 'ImportError: libcuda' >&2; exit 1\n").unwrap();
    assert!(check(&[&good]).detail.contains("ImportError: libcuda"));
}

#[test]
fn models_disks_links_and_ports() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(model(folder.path(), false).health, Health::Bad);
    fs::write(folder.path().join("config.json"), r#"{"auto_map": {}}"#).unwrap();
    assert!(model(folder.path(), false).detail.contains("code of its own"));
    assert_eq!(model(folder.path(), true).health, Health::Ok);
    fs::write(folder.path().join("config.json"), "{").unwrap();
    assert_eq!(model(folder.path(), true).health, Health::Bad);
    assert_eq!(disk("disk", &folder.path().join("not/there/yet"), 0.0).health, Health::Ok);
    assert_eq!(clock(folder.path()).health, Health::Ok);
    fs::create_dir_all(folder.path().join("ib0")).unwrap();
    fs::write(folder.path().join("ib0/operstate"), "down\n").unwrap();
    assert_eq!(fabric("ib0", folder.path()).health, Health::Bad);
    assert_eq!(fabric("ib1", folder.path()).health, Health::Warning);
    assert_eq!(engine(Path::new("servelab-no-such"), &Site::local()).health, Health::Bad);
    assert_eq!(engine(Path::new("sh"), &Site::local()).health, Health::Ok);
    assert!(ports(31_500).health <= Health::Warning);
}
