"""The advisories that the tests of this folder try: what went wrong, where it succeeds, where it fails.

``WEAK`` and ``ATTACK`` name tests as ``module::test``; modules of other folders have their path. A weak
variant stands in a test of its own, or at the beginning of the attack. ``test_advisories`` holds the list
and the tests together; ``python -m tests.security.advisories`` prints it.

Invariant: what does not concern crisp stands here, too, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHERS = {
    "firewall": "../kernel/network/traffic/test_firewall",
    "spoofing": "../kernel/network/traffic/test_spoofing",
    "spdy": "../unit/cri/streaming/test_spdy",
    "headers": "../unit/cri/streaming/test_spdy_headers",
}
"""Folders and modules beside this one, by the name that they have here."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """``ids`` without the CVE in front, of one mechanism, ``what``. Either ``weak`` and ``attacks``, or ``none``."""

    ids: str
    what: str
    weak: str = ""
    attacks: str = ""
    none: str = ""

    def names(self) -> list[str]:
        return [id if id.startswith("GHSA") else f"CVE-{id}" for id in self.ids.split()]

    def tests(self) -> list[tuple[str, str]]:
        """Path, relative to this folder and without its end, and name of each test, the weak variant first."""
        found = []
        for text in (self.weak, *self.attacks.split()):
            module, _, name = text.partition("::")
            found.append((OTHERS.get(module, f"test_{module}"), f"test_{name}"))
        return found if self.attacks else []


A = Advisory
LIST = [
    A("2016-9962", "a joining process can be traced, and shows its descriptors",
      "descriptors::a_process_that_joins_carelessly_shows_the_host",
      "descriptors::a_command_that_joins_cannot_be_looked_into descriptors::pause_shows_nothing "
      "user_namespaces::a_process_that_joins_a_user_namespace_cannot_be_looked_into "
      "kernel_surface::a_process_cannot_leave_by_tracing"),
    A("2019-5736", "the runtime's program is overwritten by /proc/self/exe",
      "host_programs::a_plain_program_of_the_host_is_overwritten_by_its_interpreter_line",
      "host_programs::an_interpreter_line_cannot_write_the_runtime "
      "host_programs::programs_of_crisp_are_on_read_only_mounts_for_whom_sees_them"),
    A("2019-16884 2019-19921 2023-27561 2023-28642 2025-54867", "/proc and /sys of the image are something else",
      "procfs::a_joined_path_mounts_procfs_where_the_image_says",
      "image_links::a_link_where_a_kernel_file_system_goes_is_refused procfs::what_an_image_has_in_proc_is_covered "
      "procfs::what_is_no_directory_is_no_mount_point_for_procfs"),
    A("2021-30465 2024-45310", "a mount's target is exchanged for a link, or made through one",
      "volumes::a_joined_path_is_mounted_on_where_it_was_exchanged",
      "volumes::mount_points_that_are_exchanged_all_the_time_stay_inside"),
    A("2021-43784", "a netlink attribute's length overflows", "bounds::a_pod_of_thousands_of_ports_is_removed_again",
      "bounds::a_pod_of_thousands_of_ports_is_removed_again"),
    A("2022-24769 2022-29162 2022-27649 2022-27650 2022-27651 2022-27652 2025-27612", "inheritable capabilities",
      "privileges::inheritable_capabilities_survive_a_careless_start",
      "privileges::no_capability_is_inheritable_or_ambient "
      "privileges::dropped_capabilities_are_dropped_for_commands_too"),
    A("2023-25809", "the control groups are writable",
      "control_groups::a_writable_hierarchy_gives_a_container_control_groups",
      "control_groups::control_groups_cannot_be_changed_from_inside"),
    A("2024-21626", "a descriptor of the host is the working directory",
      "descriptors::a_leaked_descriptor_leads_a_weak_runtime_to_the_host",
      "descriptors::a_working_directory_that_is_a_descriptor_is_refused "
      "descriptors::a_link_to_any_descriptor_is_no_working_directory "
      "descriptors::a_container_and_a_command_have_three_descriptors "
      "descriptors::a_directory_that_becomes_a_link_does_not_lead_a_command_out"),
    A("2025-31133 2025-52565", "devices that cover something are links to procfs",
      "procfs::a_mask_by_the_image_s_device_binds_what_that_names",
      "image_links::a_link_inside_of_dev_is_covered "
      "image_links::a_volume_at_dev_with_a_link_for_null_masks_nothing_else "
      "image_links::a_terminal_is_never_taken_from_a_volume"),
    A("2025-52881 2025-62596", "writes to procfs are led elsewhere",
      "procfs::a_write_by_name_goes_to_what_stands_in_for_procfs",
      "image_links::nothing_is_mounted_over_proc image_links::a_link_into_proc_is_no_mount_point "
      "procfs::a_volume_with_a_fake_procfs_is_one_and_changes_nothing"),
    A("2026-41579 2026-47766", "/dev of the image leads to the host before the pivot",
      "image_links::joined_paths_remove_the_marker_of_the_host",
      "image_links::a_link_where_a_kernel_file_system_goes_is_refused "
      "image_links::a_device_of_the_request_is_made_inside"),
    A("2026-30892", "a number that is none becomes root", "users::careless_parsing_gives_odd_numbers_a_meaning",
      "users::an_odd_number_is_no_user_of_an_image_or_request users::a_plain_number_is_exactly_itself"),
    A("2022-0811", "a sysctl's value is another sysctl",
      "privileges::a_value_that_is_joined_to_others_is_another_sysctl",
      "privileges::a_sysctl_of_the_host_is_never_written bad_pods::a_bad_pod_is_refused"),
    A("2022-0532", "sysctls of the host's namespaces", "privileges::a_value_that_is_joined_to_others_is_another_sysctl",
      "privileges::a_sysctl_of_the_host_is_never_written"),
    A("2024-3154 2023-6476 2026-53488", "annotations and labels are believed",
      "privileges::annotations_and_labels_change_nothing", "privileges::annotations_and_labels_change_nothing"),
    A("2022-1708 2022-31030", "output without end is kept", "bounds::output_without_end_is_cut_off_and_not_kept",
      "bounds::output_without_end_is_cut_off_and_not_kept bounds::a_flood_of_lines_is_bounded_by_its_log"),
    A("2022-23471 2025-64329", "tasks stay when clients leave", "bounds::clients_that_leave_leave_nothing",
      "bounds::clients_that_leave_leave_nothing"),
    A("2022-2995 2022-36109 2022-2990 2023-25173", "wrong supplementary groups",
      "privileges::groups_are_kept_by_a_careless_change_of_user",
      "privileges::supplementary_groups_are_exact privileges::root_without_groups_has_only_its_own"),
    A("2022-4318 2026-15809", "HOME adds a line to passwd", "users::a_line_that_is_pasted_together_adds_a_user",
      "users::a_home_cannot_add_lines_to_passwd users::a_variable_is_one_variable"),
    A("2024-5154 2024-9341 2024-9676 2025-4437 2026-47262", "passwd and group are links, pipes, or endless",
      "users::a_joined_path_reads_the_users_of_the_host", "users::a_users_file_that_is_no_file_is_a_quick_error"),
    A("2024-40635 2026-46680", "user ids wrap around, or are looked up as names",
      "users::careless_parsing_gives_odd_numbers_a_meaning",
      "users::an_odd_number_is_no_user_of_an_image_or_request users::a_name_is_not_guessed"),
    A("2025-0750", "an id is a path", "state_privacy::an_id_is_no_path",
      "state_privacy::an_id_is_no_path bad_pods::a_bad_pod_is_refused"),
    A("2024-8676 2026-53489 2026-53492 2026-50195", "checkpoints are believed",
      "archives::an_image_that_says_it_is_a_checkpoint_is_just_an_image",
      "archives::an_image_that_says_it_is_a_checkpoint_is_just_an_image"),
    A("2021-21334", "variables of one container reach another", "users::each_container_gets_its_own_environment",
      "users::each_container_gets_its_own_environment"),
    A("2022-23648", "volumes of an image are filled from the host",
      "volumes::a_joined_path_copies_a_directory_of_the_host",
      "volumes::a_volume_of_an_image_is_filled_from_the_image"),
    A("2021-43816", "a file of the host is relabelled", "volumes::a_host_path_is_left_as_it_is",
      "volumes::a_host_path_is_left_as_it_is image_links::links_for_the_files_of_the_pod_stay_inside"),
    A("2007-4559 2021-32760 2025-47290 2025-4138 2025-4330 2025-4517 2026-7774", "a layer writes outside of its image",
      "archives::the_standard_library_is_led_out", "archives::a_layer_changes_nothing_outside_of_its_image"),
    A("2017-14992 2021-20291 2023-25153 2025-58183", "archives that ask for much memory",
      "archives::careless_readers_take_as_much_as_they_are_told",
      "archives::content_that_asks_for_much_memory_gets_little"),
    A("2018-15664 2019-14271 2022-1227 2026-41567 2026-42306", "the runtime runs or opens what the image brings",
      "entering::a_careless_command_touches_the_image",
      "entering::a_start_opens_the_entrypoint_alone entering::a_command_opens_its_program_alone "
      "host_programs::poisoned_modules_and_libraries_of_an_image_are_never_loaded"),
    A("2019-10152 2022-4122 2026-55686", "a working directory is made through a link",
      "volumes::a_missing_working_directory_is_made_inside", "volumes::a_missing_working_directory_is_made_inside"),
    A("2020-15257", "an abstract socket", "state_privacy::no_socket_is_abstract",
      "state_privacy::no_socket_is_abstract state_privacy::sockets_and_files_are_of_root"),
    A("2021-41103 2021-41091 2024-25621", "state that others may walk through",
      "state_privacy::another_user_cannot_walk_the_state",
      "state_privacy::another_user_cannot_walk_the_state "
      "state_privacy::directories_are_private_again_after_an_upgrade"),
    A("2025-47291", "a process outside of its pod's cgroup",
      "control_groups::a_child_that_nobody_places_is_in_the_cgroup_of_its_parent",
      "control_groups::every_process_is_below_the_cgroup_of_its_pod"),
    A("2019-10214 2020-15157 2026-33540", "credentials are sent elsewhere",
      "credentials::a_client_that_follows_by_itself_takes_its_secret_along",
      "credentials::a_redirect_carries_no_token credentials::a_foreign_layer_is_asked_for_nowhere_else "
      "credentials::a_token_of_a_foreign_realm_is_the_registry_s_alone"),
    A("2021-41190 GHSA-5j5w 2024-3727", "a document that is two, a digest that is a path",
      "archives::a_careless_reader_takes_one_document_for_two",
      "bad_input_rows::a_row_gets_its_code_and_leaves_nothing"),
    A("2021-20206", "the type of a CNI plugin is a path", "plugins::a_type_that_is_a_path_is_no_plugin",
      "plugins::a_type_that_is_a_path_is_no_plugin"),
    A("2025-23266", "a program of the host has the image's variables",
      "plugins::a_plugin_is_told_nothing_by_an_image_or_a_container",
      "plugins::a_plugin_is_told_nothing_by_an_image_or_a_container"),
    A("2020-10749", "a pod speaks as a router", "spoofing::a_pod_speaks_for_itself_alone",
      "spoofing::a_pod_speaks_for_itself_alone spoofing::a_pod_without_an_ipv6_address_sends_no_ipv6"),
    A("2020-8558", "a pod reaches what listens on the node's loopback",
      "firewall::a_pod_never_reaches_what_the_node_serves_on_its_loopback_alone",
      "firewall::a_pod_never_reaches_what_the_node_serves_on_its_loopback_alone"),
    A("2017-1002101 2021-25741", "a volume's source is exchanged",
      "volumes::a_source_that_was_looked_at_is_mounted_as_what_it_became",
      "volumes::a_source_that_is_exchanged_is_mounted_as_it_was_found "
      "image_volumes::a_sub_path_that_is_a_link_leads_no_further_than_the_image "
      "image_volumes::a_sub_path_that_is_no_path_is_refused "
      "state_privacy::a_directory_of_logs_that_is_exchanged_all_the_time_leads_nowhere"),
    A("2023-2431", "no profile where one was asked for",
      "kernel_surface::without_its_program_a_profile_refuses_the_start",
      "kernel_surface::without_its_program_a_profile_refuses_the_start kernel_surface::a_profile_is_never_left_out "
      "profiles::a_profile_that_changes_after_the_creation_changes_nothing "
      "profiles::a_bad_profile_is_refused_and_never_left_out "
      "bad_pods::a_bad_pod_is_refused"),
    A("2020-8557", "what a container writes to files of the runtime is not counted",
      "bounds::what_is_written_to_files_of_the_pod_is_counted",
      "bounds::what_is_written_to_files_of_the_pod_is_counted "
      "state_privacy::files_of_the_pod_are_not_writable_with_a_read_only_root"),
    A("2024-23651 2024-23652 2024-1753 2024-9407 2024-9675 2024-11218 2026-33747",
      "what is removed is what a link leads to", "removal::a_joined_path_removes_what_its_link_leads_to",
      "removal::a_removal_leaves_the_host_alone removal::an_image_with_links_is_removed_alone"),
    A("2023-44487 2026-35469", "resets without end, counts of four thousand millions",
      "spdy::a_flood_of_resets_ends_the_session",
      "spdy::a_flood_of_resets_ends_the_session headers::a_bomb_is_refused_before_it_expands"),
    A("2022-0492 2026-31431", "what the kernel would let a container do",
      "kernel_surface::default_profile_refuses_what_leads_out",
      "kernel_surface::default_profile_refuses_what_leads_out user_namespaces::all_capabilities_are_of_the_pod_alone "
      "control_groups::control_groups_cannot_be_changed_from_inside"),
    A("2024-12718 2025-8194 2026-4360 2026-11940", "further ways to lead Python's tarfile astray",
      none="no archive is extracted by the standard library: a linter and tests/unit/test_tree.py forbid it"),
    A("2023-0778 2026-41568", "an export or a copy races with a container", none="there is no copy and no export"),
    A("2024-23653 2026-44517", "what a builder may do", none="crisp builds no images"),
    A("2025-67499", "a port of portmap takes what is for others",
      none="of the CNI's plugin; crisp's ports have an address"),
    A("2020-8559 2025-0426", "kubelet follows a redirect, and writes checkpoints for anybody",
      none="the streaming server never redirects, and there are no checkpoints"),
]  # fmt: skip


def main() -> None:
    for each in LIST:
        print(f"{' '.join(each.names())}: {each.what}")
        if each.none:
            print(f"    does not concern crisp: {each.none}")
        for number, (module, name) in enumerate(each.tests()):
            print(f"    {'fails' if number else 'succeeds'} in {module}.py::{name}")


if __name__ == "__main__":
    main()
