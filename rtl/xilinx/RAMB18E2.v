// UltraScale+'s block RAM of 16 Kb and parity as Yosys maps memories to it, for simulating netlists; Yosys
// itself has only a black box. Reference: AMD UG573, UltraScale Architecture Memory Resources.
`default_nettype none

module RAMB18E2 #(
    parameter integer READ_WIDTH_A = 0,     // bits with parity: 1, 2, 4, 9, 18, 36 (A reads, B writes)
    parameter integer READ_WIDTH_B = 0,
    parameter integer WRITE_WIDTH_A = 0,
    parameter integer WRITE_WIDTH_B = 0,
    parameter integer DOA_REG = 1,          // only 0
    parameter integer DOB_REG = 1,
    parameter WRITE_MODE_A = "NO_CHANGE",   // does not matter: no port reads and writes
    parameter WRITE_MODE_B = "NO_CHANGE",
    parameter [17:0] INIT_A = 0, INIT_B = 0, SRVAL_A = 0, SRVAL_B = 0,
    parameter [255:0] INIT_00 = 0, INIT_01 = 0, INIT_02 = 0, INIT_03 = 0, INIT_04 = 0, INIT_05 = 0,
    parameter [255:0] INIT_06 = 0, INIT_07 = 0, INIT_08 = 0, INIT_09 = 0, INIT_0A = 0, INIT_0B = 0,
    parameter [255:0] INIT_0C = 0, INIT_0D = 0, INIT_0E = 0, INIT_0F = 0, INIT_10 = 0, INIT_11 = 0,
    parameter [255:0] INIT_12 = 0, INIT_13 = 0, INIT_14 = 0, INIT_15 = 0, INIT_16 = 0, INIT_17 = 0,
    parameter [255:0] INIT_18 = 0, INIT_19 = 0, INIT_1A = 0, INIT_1B = 0, INIT_1C = 0, INIT_1D = 0,
    parameter [255:0] INIT_1E = 0, INIT_1F = 0, INIT_20 = 0, INIT_21 = 0, INIT_22 = 0, INIT_23 = 0,
    parameter [255:0] INIT_24 = 0, INIT_25 = 0, INIT_26 = 0, INIT_27 = 0, INIT_28 = 0, INIT_29 = 0,
    parameter [255:0] INIT_2A = 0, INIT_2B = 0, INIT_2C = 0, INIT_2D = 0, INIT_2E = 0, INIT_2F = 0,
    parameter [255:0] INIT_30 = 0, INIT_31 = 0, INIT_32 = 0, INIT_33 = 0, INIT_34 = 0, INIT_35 = 0,
    parameter [255:0] INIT_36 = 0, INIT_37 = 0, INIT_38 = 0, INIT_39 = 0, INIT_3A = 0, INIT_3B = 0,
    parameter [255:0] INIT_3C = 0, INIT_3D = 0, INIT_3E = 0, INIT_3F = 0,
    parameter [255:0] INITP_00 = 0, INITP_01 = 0, INITP_02 = 0, INITP_03 = 0, INITP_04 = 0, INITP_05 = 0,
    parameter [255:0] INITP_06 = 0, INITP_07 = 0
) (
    input wire CLKARDCLK, CLKBWRCLK, ENARDEN, ENBWREN, RSTRAMARSTRAM, RSTRAMB,
    input wire REGCEAREGCE, REGCEB, RSTREGARSTREG, RSTREGB, ADDRENA, ADDRENB, SLEEP,
    input wire [13:0] ADDRARDADDR, ADDRBWRADDR,
    input wire [1:0] WEA,
    input wire [3:0] WEBWE,
    input wire [15:0] DINADIN, DINBDIN,
    input wire [1:0] DINPADINP, DINPBDINP,
    output wire [15:0] DOUTADOUT, DOUTBDOUT,
    output wire [1:0] DOUTPADOUTP, DOUTPBDOUTP
);
    initial
        if (DOA_REG != 0 || DOB_REG != 0) $error("RAMB18E2: output registers are not modelled");

    skipstone_block_ram #(
        .WIDTH(16),
        .READ_A(READ_WIDTH_A),
        .READ_B(READ_WIDTH_B),
        .WRITE_A(WRITE_WIDTH_A),
        .WRITE_B(WRITE_WIDTH_B),
        .START_A(INIT_A),
        .START_B(INIT_B),
        .RESET_A(SRVAL_A),
        .RESET_B(SRVAL_B),
        .INIT({INIT_3F, INIT_3E, INIT_3D, INIT_3C, INIT_3B, INIT_3A, INIT_39, INIT_38, INIT_37, INIT_36,
            INIT_35, INIT_34, INIT_33, INIT_32, INIT_31, INIT_30, INIT_2F, INIT_2E, INIT_2D,
            INIT_2C, INIT_2B, INIT_2A, INIT_29, INIT_28, INIT_27, INIT_26, INIT_25, INIT_24,
            INIT_23, INIT_22, INIT_21, INIT_20, INIT_1F, INIT_1E, INIT_1D, INIT_1C, INIT_1B,
            INIT_1A, INIT_19, INIT_18, INIT_17, INIT_16, INIT_15, INIT_14, INIT_13, INIT_12,
            INIT_11, INIT_10, INIT_0F, INIT_0E, INIT_0D, INIT_0C, INIT_0B, INIT_0A, INIT_09,
            INIT_08, INIT_07, INIT_06, INIT_05, INIT_04, INIT_03, INIT_02, INIT_01, INIT_00}),
        .INIT_PARITY({INITP_07, INITP_06, INITP_05, INITP_04, INITP_03, INITP_02, INITP_01, INITP_00})
    ) ram (
        .clk_a(CLKARDCLK),
        .clk_b(CLKBWRCLK),
        .en_a(ENARDEN),
        .en_b(ENBWREN),
        .rst_a(RSTRAMARSTRAM),
        .rst_b(RSTRAMB),
        .addr_a(ADDRARDADDR),
        .addr_b(ADDRBWRADDR),
        .we_a(WEA),
        .we_b(WEBWE),
        .di_a(DINADIN),
        .di_b(DINBDIN),
        .dip_a(DINPADINP),
        .dip_b(DINPBDINP),
        .do_a(DOUTADOUT),
        .do_b(DOUTBDOUT),
        .dop_a(DOUTPADOUTP),
        .dop_b(DOUTPBDOUTP)
    );
endmodule

`default_nettype wire
